# shellcheck shell=sh disable=SC2034
# Where things are, for install.sh and uninstall.sh.
#
#   PREFIX=/usr    where the code goes; the configuration is in /etc/lva, the state in /var/lib/lva
#   DESTDIR=       a tree to work on instead of this system: nothing outside it is touched, no service told

DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr}
home=$PREFIX/lib/lva
case $PREFIX in
/usr | /usr/local) declared=$PREFIX/lib ;;
*) declared=/etc ;; # systemd looks nowhere else
esac
units=$declared/systemd/system
sysusers=$declared/sysusers.d/lva.conf
tmpfiles=$declared/tmpfiles.d/lva.conf

fail() {
    echo "$1" >&2
    exit 1
}

[ $# = 0 ] || fail "there are no arguments, only variables: DESTDIR=/some/folder $0"

# Ends the script where the service could not run, or where the paths can't be trusted.
check_paths() {
    case $PREFIX in
    /home* | /root* | /run/user* | /tmp*) fail "the service sees nothing of $PREFIX: give another PREFIX" ;;
    /*) ;;
    *) fail "PREFIX must be an absolute path, not '$PREFIX'" ;;
    esac
    case $DESTDIR$PREFIX in *[!A-Za-z0-9/._+-]*) fail "DESTDIR and PREFIX must be plain paths, without spaces or signs" ;; esac
    [ -n "$DESTDIR" ] || [ "$(id -u)" = 0 ] || fail "run it as root, or give a tree to work on: DESTDIR=/some/folder"
}

systemd_runs() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }
