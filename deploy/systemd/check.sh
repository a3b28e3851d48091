#!/bin/sh
# What systemd itself says of the units, with each drop-in and with those that go together; prints the exposure of each.
# Fails on anything that systemd would ignore with no more than a line in the log, and on an exposure above 1.5.
#
#   deploy/systemd/check.sh [FOLDER]    with lva.service, lva-model.service and drop-ins/; this one, if none is given
set -eu

units=${1:-$(dirname "$0")}
exposure_max=15 # in tenths
failed=0

if ! command -v systemd-analyze >/dev/null; then
    echo "NOT CHECKED: the units and their drop-ins; there is no systemd-analyze here (package systemd)" >&2
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

# analyze UNIT NAME DROP-IN...: of the unit together with these drop-ins.
analyze() {
    unit=$1 name=$2
    shift 2
    root=$(mktemp -d)
    folder=$root/etc/systemd/system
    mkdir -p "$folder/$unit.service.d"
    # Its program is installed on few machines on which this runs.
    sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' "$units/$unit.service" >"$folder/$unit.service"
    for drop_in; do cp "$units/drop-ins/$drop_in.conf" "$folder/$unit.service.d/"; done
    if ! said=$(systemd-analyze verify "$folder/$unit.service" 2>&1) || [ -n "$said" ]; then
        complain "$name: systemd-analyze verify: $said"
    fi
    if said=$(systemd-analyze --root="$root" security --offline=yes --threshold=$exposure_max --no-pager "$unit.service" 2>&1); then
        printf '%-24s %s\n' "$name" "$(echo "$said" | sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\).*/\1/p')"
    else
        complain "$name: more exposed than $exposure_max tenths: $(echo "$said" | tail -n 2)"
    fi
    rm -rf "$root"
}

no_comments_behind_values "$units"/*.service "$units"/drop-ins/*.conf
analyze lva "base"
for file in "$units"/drop-ins/*.conf; do
    drop_in=${file##*/}
    analyze lva "${drop_in%.conf}" "${drop_in%.conf}"
done
analyze lva "usb + cloud" usb cloud
analyze lva "gpu + cloud" gpu cloud
analyze lva "gpu + usb + cloud" gpu usb cloud
analyze lva-model "lva-model"
analyze lva-model "lva-model + gpu" gpu
exit $failed
