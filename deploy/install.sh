#!/bin/sh
# Installs Live Vision Analyzer as a service, or this version over an older one: `make install`. Run it again at will:
# code is replaced, while configuration, credentials and state stay as they are. paths.sh has PREFIX and DESTDIR.
#
#   ENABLE=1                     enable and start the service too
#   PYTHON=/usr/bin/python3      the interpreter that the service will use; with DESTDIR it has the same path there
#   LOCK=requirements/base.txt   what is installed beside the project; for lva-model: requirements/models.txt.
#                                pip's own variables hold, such as
#                                PIP_FIND_LINKS=folder PIP_NO_INDEX=1 for a machine without network
set -eu
umask 022

source_dir=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=deploy/paths.sh
. "$source_dir/deploy/paths.sh"
PYTHON=${PYTHON:-/usr/bin/python3}
LOCK=${LOCK:-requirements/base.txt}
venv=$home/venv

main() {
    check_paths
    check_python
    [ -n "$DESTDIR" ] || PYTHON=$PYTHON "$source_dir/deploy/system-packages.sh"
    build_venv
    place_files
    switch_to_new_venv
    [ -n "$DESTDIR" ] || make_user_and_folders
    ! systemd_runs || tell_systemd
    remove_old_venvs
    say_what_is_next
}

# The service sees nothing of /home and /root, so an interpreter from there (pyenv, conda, uv) would not start.
check_python() {
    found=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable), sys.version_info >= (3, 11))') ||
        fail "$PYTHON does not run: give PYTHON=/path/to/python3"
    case $found in
    /home/* | /root/* | /run/user/* | /tmp/*) fail "the service can't see ${found% *}: give PYTHON=/usr/bin/python3" ;;
    *False) fail "Python 3.11 or newer is needed; $PYTHON is $("$PYTHON" --version)" ;;
    esac
}

# Beside the one that may be running, which a failure leaves as it is.
build_venv() {
    echo "building $DESTDIR$venv (a minute or two)"
    mkdir -p "$DESTDIR$home"
    new=$(mktemp -d "$DESTDIR$venv.XXXXXX")
    copy_of_source=$(mktemp -d) # setuptools writes into the folder that it builds
    trap 'rm -rf "$copy_of_source" "$new"' EXIT
    trap 'exit 1' INT TERM
    chmod 755 "$new"
    "$PYTHON" -m venv "$new"
    pip_install --require-hashes -r "$source_dir/$LOCK"
    (cd "$source_dir" && cp -R pyproject.toml README.md daemon pipeline providers "$copy_of_source")
    pip_install --no-deps --no-build-isolation "$copy_of_source"
    # Scripts name their interpreter by its full path, which is to be the final one.
    grep -rlIF "$new" "$new/bin" "$new/pyvenv.cfg" | xargs sed -i "s|$new|$venv|g"
    ln -s "$(cd "$new" && echo lib/python3*/site-packages/daemon/demo)" "$new/demo"
}

pip_install() {
    "$new/bin/python" -m pip --quiet --disable-pip-version-check install --no-input --root-user-action=ignore "$@"
}

place_files() {
    place 644 README.md "$home/README.md"
    place 755 deploy/lva "$PREFIX/bin/lva"
    place 644 deploy/systemd/lva.service "$units/lva.service"
    place 644 deploy/systemd/lva-model.service "$units/lva-model.service"
    place 644 deploy/systemd/lva.sysusers "$sysusers"
    place 644 deploy/systemd/lva.tmpfiles "$tmpfiles"
    for drop_in in "$source_dir"/deploy/systemd/drop-ins/*.conf; do
        place 644 "deploy/systemd/drop-ins/${drop_in##*/}" "$home/drop-ins/${drop_in##*/}"
    done
    install -d -m 750 "$DESTDIR/etc/lva"
    install -d -m 700 "$DESTDIR/etc/lva/credentials"
    for file in config.toml lva-model.toml; do
        [ -e "$DESTDIR/etc/lva/$file" ] || place 640 "deploy/$file" "/etc/lva/$file"
    done
}

# place MODE FILE PATH: a file of ours at its place, where /usr/lib/lva in its text is what it really is.
place() {
    install -d "$DESTDIR${3%/*}"
    sed "s|/usr/lib/lva|$home|g" "$source_dir/$2" >"$DESTDIR$3.new"
    chmod "$1" "$DESTDIR$3.new"
    mv "$DESTDIR$3.new" "$DESTDIR$3"
}

# At once, and only when all of it is on the disk: the power may go at any moment.
switch_to_new_venv() {
    sync -f "$new"
    ln -s "${new##*/}" "$new.link"
    mv -T "$new.link" "$DESTDIR$venv"
    trap 'rm -rf "$copy_of_source"' EXIT
    sync -f "$DESTDIR$home"
}

make_user_and_folders() {
    systemd-sysusers "$sysusers"
    systemd-tmpfiles --create "$tmpfiles"
}

# A service that runs goes on with the new code at once.
tell_systemd() {
    systemctl daemon-reload
    systemctl try-restart lva.service ||
        fail "installed, but the service does not start, and systemd goes on trying. What it says: journalctl -u lva -n 20"
    systemctl try-restart lva-model.service || echo "lva-model does not start: journalctl -u lva-model -n 20" >&2
    [ "${ENABLE:-0}" != 1 ] || systemctl enable --now lva.service
}

remove_old_venvs() {
    for old in "$DESTDIR$venv".*; do
        [ "$old" = "$new" ] || rm -rf "$old"
    done
}

say_what_is_next() {
    if [ -n "$DESTDIR" ]; then
        echo "installed into $DESTDIR. On the system itself:"
        echo "    systemd-sysusers; systemd-tmpfiles --create; systemctl daemon-reload; systemctl enable --now lva"
    elif systemd_runs && systemctl is-enabled --quiet lva.service; then
        echo "installed; the service is enabled: systemctl status lva"
    else
        cat <<-END
		installed. Now:
		    edit /etc/lva/config.toml     (as it is, it watches the bundled clip)
		    lva validate
		    systemctl enable --now lva
		    systemctl status lva; journalctl -u lva -f; lva tail
		END
    fi
}

main
