#!/bin/sh
# The roles and the database of Gatelog, with the passwords out of /secrets/database. Runs at the first start
# and, by hand, after the passwords were changed: every step can be repeated.
set -eu
owner=$(cat /secrets/database/owner_password) login=$(cat /secrets/database/password)
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres <<SQL
SET client_min_messages = warning;
SELECT format('CREATE ROLE %I', name)
  FROM unnest(ARRAY['gatelog_owner', 'gatelog_app', 'gatelog']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \\gexec
ALTER ROLE gatelog_owner LOGIN CREATEROLE PASSWORD '$owner';
ALTER ROLE gatelog LOGIN PASSWORD '$login';
GRANT gatelog_app TO gatelog;
GRANT gatelog_app TO gatelog_owner WITH ADMIN TRUE;
SELECT 'CREATE DATABASE gatelog OWNER gatelog_owner'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'gatelog') \\gexec
SQL
