#!/bin/sh
# restore.sh [--keep-sessions] [BACKUP [TARGET]]: bring a backup back, and take it into service.
#
# BACKUP and TARGET are those of docker/postgres/restore.sh; without them the latest backup, and all
# of the archived write-ahead log. All sessions end, unless --keep-sessions is given; some of those
# that it keeps may have ended after the backup. Nothing is served before all is done. Options of
# compose come from its variables (COMPOSE_FILE, …).
set -eu
keep=
if [ "${1:-}" = --keep-sessions ]; then keep=$1; shift; fi
here=$(dirname "$0")
compose() {
  if [ -n "${COMPOSE_FILE:-}" ]; then docker compose "$@"
  else docker compose -f "$here/compose.yaml" "$@"; fi
}

compose stop nginx api sealer postgres
compose run --rm restore "$@"
compose up --detach --wait postgres
compose exec -T postgres /gatelog/roles.sh # the passwords may be newer than the backup
compose run --rm after-restore $keep
compose up --detach --wait
compose exec -T sealer gatelog log verify
