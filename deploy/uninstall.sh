#!/bin/sh
# Takes the service away again: `make uninstall`. Configuration, credentials and state stay, unless PURGE=1.
# paths.sh has PREFIX and DESTDIR, which are to be those of the installation.
set -eu

# shellcheck source=deploy/paths.sh
. "$(dirname "$0")/paths.sh"
check_paths

for service in lva lva-model; do
    ! systemd_runs || ! systemctl cat $service.service >/dev/null 2>&1 || systemctl disable --now --quiet $service.service
done
rm -rf "$DESTDIR$home"
rm -f "$DESTDIR$PREFIX/bin/lva" "$DESTDIR$sysusers" "$DESTDIR$tmpfiles"
rm -f "$DESTDIR$units/lva.service" "$DESTDIR$units/lva-model.service"
! systemd_runs || systemctl daemon-reload

if [ "${PURGE:-0}" = 1 ]; then
    rm -rf "$DESTDIR/etc/lva" "$DESTDIR/var/lib/lva" "$DESTDIR/var/cache/lva-model"
    rm -rf "$DESTDIR/etc/systemd/system/lva.service.d" "$DESTDIR/etc/systemd/system/lva-model.service.d"
    [ -n "$DESTDIR" ] || ! getent passwd lva >/dev/null || userdel lva
    echo "removed, with configuration, credentials and everything recorded"
else
    echo "removed. Left as they are: $DESTDIR/etc/lva, $DESTDIR/var/lib/lva, the unit's own drop-ins, and the user lva"
    echo "(PURGE=1 removes them too)"
fi
