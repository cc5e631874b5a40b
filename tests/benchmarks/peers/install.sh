#!/bin/sh
# Installs Debian packages, of which some have daemons: none is started, now or at the next boot.
# One that cannot be installed is named; its row of the table will say that it is missing.
set -e
policy=/usr/sbin/policy-rc.d
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
missing=
for package; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing Debian packages:$missing"
if [ ! -e $policy ]; then
    trap '$sudo rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
    $sudo chmod 755 $policy
fi
$sudo apt-get update -qq || true
for package in $missing; do
    if $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1
    then
        $sudo systemctl disable --quiet "$package" 2>/dev/null || true
    else
        echo "could not install $package"
    fi
done
