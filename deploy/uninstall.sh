#!/bin/sh
# Takes the service away again: `make uninstall`. Configuration, credentials and state stay, unless PURGE=1.
# PREFIX and DESTDIR as for install.sh.
set -eu

DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr}

[ -n "$DESTDIR" ] || [ "$(id -u)" = 0 ] || {
    echo "run it as root, or give the tree: DESTDIR=/some/folder" >&2
    exit 1
}

systemd_runs() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }

if systemd_runs && systemctl cat lva.service >/dev/null 2>&1; then
    systemctl disable --now --quiet lva.service
fi
rm -rf "$DESTDIR$PREFIX/lib/lva"
rm -f "$DESTDIR$PREFIX/bin/lva" \
    "$DESTDIR$PREFIX/lib/systemd/system/lva.service" \
    "$DESTDIR$PREFIX/lib/sysusers.d/lva.conf" \
    "$DESTDIR$PREFIX/lib/tmpfiles.d/lva.conf"
! systemd_runs || systemctl daemon-reload

if [ "${PURGE:-0}" = 1 ]; then
    rm -rf "$DESTDIR/etc/lva" "$DESTDIR/var/lib/lva" "$DESTDIR/etc/systemd/system/lva.service.d"
    [ -n "$DESTDIR" ] || ! getent passwd lva >/dev/null || userdel lva
    echo "removed, with configuration, credentials and everything recorded"
else
    echo "removed. Left as they are: $DESTDIR/etc/lva, $DESTDIR/var/lib/lva, drop-ins of the unit, and the user lva (PURGE=1 removes them too)"
fi
