"""The statements of users and their credentials, to read.

A test prepares each against the migrated schema. Moments and ids come in as parameters.
"""

# What a login is verified against. $1 login
FIND_CREDENTIAL = """
SELECT u.subject_id, c.login, c.password_hash, u.disabled, u.credential_version, u.roles,
       k.wrapped_key, k.master_key_id
FROM credentials c JOIN users u USING (subject_id) LEFT JOIN subject_keys k USING (subject_id)
WHERE c.login = $1
"""

# The same, by user. $1 user
FIND_CREDENTIAL_OF = """
SELECT u.subject_id, c.login, c.password_hash, u.disabled, u.credential_version, u.roles,
       k.wrapped_key, k.master_key_id
FROM credentials c JOIN users u USING (subject_id) LEFT JOIN subject_keys k USING (subject_id)
WHERE u.subject_id = $1
"""

# Whether there is such a user, erased or not. $1 user
FIND_USER = """
SELECT subject_id, registered_at, disabled, credential_version, roles, erased
FROM users WHERE subject_id = $1
"""

# Put a password's hash under new parameters, unless it changed meanwhile. $1 user, $2 old, $3 new
REPLACE_HASH = """
UPDATE credentials SET password_hash = $3 WHERE subject_id = $1 AND password_hash = $2
"""

# A page of users by id, with their logins. $1 after this id, $2 how many
LIST_USERS = """
SELECT u.subject_id, c.login, u.registered_at, u.disabled, u.roles, u.erased
FROM users u LEFT JOIN credentials c USING (subject_id)
WHERE u.subject_id > $1 ORDER BY u.subject_id LIMIT $2
"""
