#!/bin/sh
# What systemd itself says of the unit, with each drop-in and with those that go together; prints the exposure of each.
# Fails on anything that systemd would ignore with no more than a line in the log, and on an exposure above 1.5.
#
#   deploy/systemd/check.sh [FOLDER]    with lva.service and drop-ins/; this one, if none is given
set -eu

units=${1:-$(dirname "$0")}
exposure_max=15 # in tenths
failed=0

if ! command -v systemd-analyze >/dev/null; then
    echo "NOT CHECKED: the unit and its drop-ins; there is no systemd-analyze here (package systemd)" >&2
    exit 0
fi

complain() {
    echo "$1" >&2
    failed=1
}

# The rest of the line would become part of the value.
no_comments_behind_values() {
    if found=$(grep -nE '^[^#;].*[[:space:]][#;]' "$@"); then
        complain "systemd knows no comments behind a value:
$found"
    fi
}

# analyze NAME DROP-IN...: of the unit together with these drop-ins.
analyze() {
    name=$1
    shift
    root=$(mktemp -d)
    folder=$root/etc/systemd/system
    mkdir -p "$folder/lva.service.d"
    # Its program is installed on few machines on which this runs.
    sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' "$units/lva.service" >"$folder/lva.service"
    for drop_in; do cp "$units/drop-ins/$drop_in.conf" "$folder/lva.service.d/"; done
    if ! said=$(systemd-analyze verify "$folder/lva.service" 2>&1) || [ -n "$said" ]; then
        complain "$name: systemd-analyze verify: $said"
    fi
    if said=$(systemd-analyze --root="$root" security --offline=yes --threshold=$exposure_max --no-pager lva.service 2>&1); then
        printf '%-24s %s\n' "$name" "$(echo "$said" | sed -n 's/.*Overall exposure level for lva.service: \([0-9.]*\).*/\1/p')"
    else
        complain "$name: more exposed than $exposure_max tenths: $(echo "$said" | tail -n 2)"
    fi
    rm -rf "$root"
}

no_comments_behind_values "$units"/lva.service "$units"/drop-ins/*.conf
analyze "base"
for file in "$units"/drop-ins/*.conf; do
    drop_in=${file##*/}
    analyze "${drop_in%.conf}" "${drop_in%.conf}"
done
analyze "usb + cloud" usb cloud
analyze "gpu + cloud" gpu cloud
analyze "gpu + usb + cloud" gpu usb cloud
exit $failed
