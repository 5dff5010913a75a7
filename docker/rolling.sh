#!/bin/sh
# rolling.sh restart: restart every api container, one after the other.
# rolling.sh upgrade: replace every api container by one of the image that is named now. Build or
#                     pull it first; the schema is migrated first, and both versions work on it.
#
# No request fails meanwhile. Other options of compose come from its variables (COMPOSE_PROJECT_NAME).
set -eu
compose() { docker compose -f "$(dirname "$0")/compose.yaml" "$@"; }

healthy() { # CONTAINER: wait until it can do its work
  for _ in $(seq 120); do
    [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" != healthy ] || return 0
    sleep 0.5
  done
  echo "rolling: $1 is not healthy; nothing more is changed" >&2
  exit 1
}

case ${1:-} in
  restart)
    for container in $(compose ps --quiet api); do
      docker restart "$container" >/dev/null
      healthy "$container"
    done
    ;;
  upgrade)
    old=$(compose ps --quiet api)
    number=$(echo "$old" | wc -w)
    compose run --rm --no-deps migrate
    compose up --detach --no-deps --no-recreate --scale "api=$((number * 2))" api
    for container in $(compose ps --quiet api); do healthy "$container"; done
    for container in $old; do
      docker stop "$container" >/dev/null
      docker rm "$container" >/dev/null
    done
    compose up --detach --no-deps sealer
    compose up --detach --no-deps --no-recreate --scale "api=$number" api
    ;;
  *)
    sed -n '2,6s/^# //p' "$0" >&2
    exit 2
    ;;
esac
