#!/bin/sh
# rolling.sh restart: restart every api container, one after the other.
# rolling.sh upgrade: replace every api container by one of the image that is named now, and the
#                     sealer. Build or pull it first; the schema is migrated first, and both
#                     versions work on it. The image before is kept as PROJECT:previous.
#
# No request fails meanwhile. An upgrade whose containers do not become healthy takes them away
# again; the old ones serve on. Options of compose come from its variables (COMPOSE_FILE, …).
set -eu
here=$(dirname "$0")
compose() {
  if [ -n "${COMPOSE_FILE:-}" ]; then docker compose "$@"
  else docker compose -f "$here/compose.yaml" "$@"; fi
}
say() { echo "rolling: $*" >&2; }

of_api() { # what the service api is configured to be: KEY and its indentation
  printf '%s\n' "$config" | sed -n '/^  api:$/,/^  [a-z]/'"s/^$1: //p" | tr -d '"'
}

api() { # its containers in whatever state, one a line
  docker ps --all --quiet --no-trunc --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.service=api --filter label=com.docker.compose.oneoff=False
}

new() { # those that were not there before
  api | grep -vxF "$old" || true
}

healthy() { # CONTAINER: wait until it can do its work; not for long if it crashes again and again
  for _ in $(seq 120); do
    case $(docker inspect --format '{{.State.Health.Status}} {{.RestartCount}}' "$1") in
      "healthy "*) return 0 ;;
      *" "[0-2]) sleep 0.5 ;;
      *) break ;;
    esac
  done
  say "$1 is not healthy"
  return 1
}

keep_image() { # a name for the image that works, to go back to: a build has taken its own
  [ "$image" != "$project:previous" ] || return 0
  for container in $old; do
    case $(docker inspect --format '{{.State.Health.Status}} {{.Image}}' "$container") in
      *" $wanted") ;;
      "healthy "*)
        docker tag "$(docker inspect --format '{{.Image}}' "$container")" "$project:previous"
        return 0
        ;;
    esac
  done
}

remove() { # CONTAINER …
  for container in "$@"; do
    docker stop "$container" >/dev/null || true
    docker rm --force "$container" >/dev/null
  done
}

undo() {
  trap - EXIT
  say "not upgraded: the new containers go, the old ones serve on"
  remove $(new)
}

case ${1:-} in
  restart)
    for container in $(compose ps --quiet api); do
      docker restart "$container" >/dev/null
      healthy "$container" || { say "nothing more is restarted"; exit 1; }
    done
    ;;
  upgrade)
    config=$(compose config)
    project=$(printf '%s\n' "$config" | sed -n 's/^name: //p')
    image=$(of_api '    image') number=$(of_api '      replicas')
    wanted=$(docker image inspect --format '{{.Id}}' "$image")
    # After an upgrade that was killed there may be more than 'number', and broken ones among them
    old=$(api)
    [ -n "$old" ] || { say "nothing is up that could be upgraded"; exit 1; }
    keep_image
    compose run --rm --no-deps migrate
    trap 'exit 1' HUP INT TERM
    trap undo EXIT
    compose up --detach --no-deps --no-recreate --no-build \
      --scale "api=$(($(echo "$old" | wc -w) + number))" api
    for container in $(new); do healthy "$container"; done
    trap - EXIT
    remove $old
    compose up --detach --no-deps --no-build --wait sealer ||
      { say "the sealer is not healthy: the service works, but nothing is signed"; exit 1; }
    ;;
  *)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
