#!/bin/sh
# backup.sh [KEEP]: a base backup, beside the running service; of older ones KEEP are kept (7), and of
# the archived write-ahead log what they need.
#
#     docker compose exec postgres /gatelog/backup.sh
set -eu
keep=${1:-7}
name=$(date -u +%Y%m%dT%H%M%SZ)
rm -rf /backup/*.partial
pg_basebackup --username=postgres --checkpoint=fast --wal-method=stream \
  --pgdata="/backup/$name.partial"
pg_verifybackup --quiet "/backup/$name.partial"
mv "/backup/$name.partial" "/backup/$name"
sync /backup
ls -1d /backup/*Z | sort -r | tail -n +"$((keep + 1))" | while read -r old; do rm -rf "$old"; done
oldest=$(ls -1d /backup/*Z | sort | head -n 1)
first=$(sed -n 's/^START WAL LOCATION: .*(file \([0-9A-F]*\)).*/\1/p' "$oldest/backup_label")
pg_archivecleanup /archive "$first"
echo "$name"
