#!/bin/bash
# restore.sh [BACKUP [TARGET]]: put a backup in the place of the cluster and recover it; the cluster
# that is there is moved aside. BACKUP is a name below /backup, or 'latest'. TARGET is 'end' (all of
# the archived write-ahead log; the default), 'backup' (no more than the backup itself), or a time
# like '2026-03-01 12:00:00+00'.
#
# Only docker/restore.sh calls it: a restored database must not be served before
# 'gatelog after-restore' has run.
set -euo pipefail
backup=${1:-latest} target=${2:-end}
data=${PGDATA:-/var/lib/postgresql/18/docker}
fail() { echo "restore: $*" >&2; exit 1; }

if pg_isready --quiet --host=postgres; then fail "PostgreSQL is running; stop it first"; fi
[ "$backup" != latest ] || backup=$(cd /backup && ls -1d -- *Z 2>/dev/null | sort | tail -n 1) || true
[ -n "$backup" ] && [ -f "/backup/$backup/backup_manifest" ] || fail "there is no backup $backup"
pg_verifybackup --quiet "/backup/$backup"

mkdir -p "$(dirname "$data")"
if [ -e "$data" ]; then
  aside=$data.before-$(date -u +%Y%m%dT%H%M%SZ)
  mv "$data" "$aside"
  echo "the cluster that was there is in $aside"
fi
rm -rf "$data.new"
cp -a "/backup/$backup" "$data.new"
chmod 0700 "$data.new"
touch "$data.new/recovery.signal"
mv "$data.new" "$data"

# Recover here, with nobody connected, and end as a cluster of its own timeline.
options=(-c listen_addresses= -c hot_standby=off -c archive_mode=on
  -c "archive_command=/gatelog/archive.sh %p %f" -c recovery_target_action=promote)
case $target in
  end) options+=(-c "restore_command=cp /archive/%f %p") ;;
  backup) options+=(-c "restore_command=false" -c recovery_target=immediate) ;;
  *) options+=(-c "restore_command=cp /archive/%f %p" -c "recovery_target_time=$target") ;;
esac
postgres -D "$data" "${options[@]}" >/tmp/recovery 2>&1 &
server=$!
recovered() { # the state alone would not do: a backup has that of the server it was made of
  [ ! -e "$data/recovery.signal" ] &&
    pg_controldata "$data" | grep -q 'cluster state: *in production'
}
until recovered; do
  kill -0 "$server" 2>/dev/null || { cat /tmp/recovery >&2; fail "the recovery did not succeed"; }
  sleep 0.2
done
kill -INT "$server" # the fast shutdown
wait "$server"
grep -h 'recovery stopping\|redo done\|last completed transaction' /tmp/recovery || true
echo "restored $backup up to: $target"
