#!/bin/sh
# volumes.sh save DIRECTORY: copy what a restore needs into two files there: backups.tar (backups,
#                            archive and last checkpoint) and secrets.tar, which opens everything.
#                            Keep them apart.
# volumes.sh load DIRECTORY: put them into the volumes of a stack that was never started;
#                            restore.sh goes on from there.
#
# Options of compose come from its variables (COMPOSE_FILE, …).
set -eu
here=$(dirname "$0")
compose() {
  if [ -n "${COMPOSE_FILE:-}" ]; then docker compose "$@"
  else docker compose -f "$here/compose.yaml" "$@"; fi
}
# The checkpoint first: the archive, which is read last, must hold all that it signs
backups="sealed backup archive"
secrets="secrets-database secrets-application secrets-owner secrets-sealer"

with_volumes() { # COMMAND …: in a directory with all volumes, as root, who may read and write them
  command=$1
  shift
  for name in $backups $secrets; do set -- --volume "${project}_$name:/volumes/$name" "$@"; done
  docker run --rm --interactive --network none --user 0 --workdir /volumes --entrypoint "$command" "$@"
}

case ${1:-} in save | load) [ -d "${2:-}" ] || set -- ;; *) set -- ;; esac
if [ $# = 0 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
project=$(compose config | sed -n 's/^name: //p')
image=$(compose config --images secrets)
if [ "$1" = save ]; then
  umask 077
  # 1: a directory has changed meanwhile, as it does beside a running service; files come and go whole
  with_volumes tar "$image" --numeric-owner -cf - $backups </dev/null >"$2/backups.tar" || [ $? = 1 ]
  with_volumes tar "$image" --numeric-owner -cf - $secrets </dev/null >"$2/secrets.tar"
  exit
fi
for file in backups secrets; do
  [ -r "$2/$file.tar" ] || { echo "volumes: there is no $2/$file.tar" >&2; exit 1; }
done
if [ -n "$(compose ps --quiet)" ]; then
  echo "volumes: $project runs; nothing is changed" >&2
  exit 1
fi
compose create
if [ -n "$(with_volumes find "$image" . -mindepth 2 </dev/null)" ]; then
  echo "volumes: those of $project are not empty; nothing is changed" >&2
  exit 1
fi
for file in backups secrets; do
  with_volumes tar "$image" --numeric-owner -xpf - <"$2/$file.tar"
done
