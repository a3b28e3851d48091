#!/bin/sh
# What the Python packages need of the system: names on Debian and Ubuntu. With `test`, also what the tests need;
# with `systemd-test`, what builds and boots the container of that test.
# Installs what is missing where it may (root, apt-get); elsewhere it says what to type.
set -eu

need=""
have_library() { ldconfig -p | grep -q "$1"; }
have_library 'libGL\.so\.1' || need="$need libgl1"
have_library 'libgthread-2\.0\.so\.0' || need="$need libglib2.0-0"
"${PYTHON:-python3}" -c 'import ensurepip' 2>/dev/null || need="$need python3-venv"

if [ "${1:-}" = test ]; then
    /usr/bin/python3 -c 'import gi; gi.require_version("GstRtspServer", "1.0"); from gi.repository import GstRtspServer' 2>/dev/null ||
        need="$need python3-gi gir1.2-gst-rtsp-server-1.0"
    have_gst() { [ -e "/usr/lib/$(uname -m)-linux-gnu/gstreamer-1.0/libgst$1.so" ]; }
    have_gst rtp || need="$need gstreamer1.0-plugins-good"
    have_gst videotestsrc || need="$need gstreamer1.0-plugins-base"
    have_gst x264 || need="$need gstreamer1.0-plugins-ugly"
    have_gst videoparsersbad || need="$need gstreamer1.0-plugins-bad"
    command -v systemd-analyze >/dev/null || need="$need systemd"
    command -v strace >/dev/null || need="$need strace"
    command -v openssl >/dev/null || need="$need openssl"
    [ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null || need="$need pgbouncer"
fi

if [ "${1:-}" = systemd-test ]; then
    command -v debootstrap >/dev/null || need="$need debootstrap"
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || need="$need debian-archive-keyring"
    command -v systemd-nspawn >/dev/null || need="$need systemd-container"
fi

[ -z "$need" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing by apt:$need"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words is meant
    apt-get install -y -qq --no-install-recommends $need >/dev/null
else
    echo "This needs system packages that are missing. On Debian or Ubuntu:" >&2
    echo "    sudo apt-get install$need" >&2
    [ -n "${1:-}" ] || exit 1
fi
