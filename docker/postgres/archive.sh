#!/bin/sh
# archive.sh PATH NAME: keep a finished segment of the write-ahead log, for a restore to a point in
# time. Before the first backup nothing is kept: there would be nothing to play it onto.
set -eu
found=
for backup in /backup/*/; do [ -d "$backup" ] && found=yes; done
[ -n "$found" ] || exit 0
if [ -e "/archive/$2" ]; then # kept already, when a crash came in between
  cmp -s "$1" "/archive/$2"
  exit
fi
cp "$1" "/archive/$2.new"
sync "/archive/$2.new"
mv "/archive/$2.new" "/archive/$2"
sync /archive
