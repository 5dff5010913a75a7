#!/bin/sh
# restore.sh [--keep-sessions] [BACKUP [TARGET]]: bring a backup back, and take it into service.
#
# BACKUP and TARGET are those of docker/postgres/restore.sh; without them the latest backup, and all
# of the archived write-ahead log. All sessions end, unless --keep-sessions is given; some of those
# that it keeps may have ended after the backup. Nothing is served before all is done.
set -eu
keep=
if [ "${1:-}" = --keep-sessions ]; then keep=$1; shift; fi
compose() { docker compose -f "$(dirname "$0")/compose.yaml" "$@"; }

compose stop nginx api sealer postgres
compose run --rm restore "$@"
compose up --detach --wait postgres
compose run --rm after-restore $keep
compose up --detach --wait
compose exec -T sealer gatelog log verify
