#!/bin/sh
# Builds the Debian packages from a copy of the source: deb.sh FOLDER, where they are left. Needs debhelper and what
# debian/control names; touches no network.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^#define LGV_VERSION  *"\(.*\)".*/\1/p' include/langevin/version.h)
if ! command -v dh >/dev/null || ! command -v dpkg-buildpackage >/dev/null; then
    echo "Missing packages. As root, run:  apt-get install -y --no-install-recommends debhelper dpkg-dev" >&2
    exit 1
fi
head -n 1 debian/changelog | grep -qF "($version)" || {
    echo "debian/changelog is not about version $version" >&2
    exit 1
}
rm -rf "$1"
mkdir -p "$1/langevin-$version"
tar -cf - CMakeLists.txt LICENSE README.md CHANGELOG.md bench cli cmake debian docs examples include models src tests tools |
    tar -xf - -C "$1/langevin-$version"
cd "$1/langevin-$version"
dpkg-buildpackage --build=binary --no-sign >../build.log 2>&1 || {
    tail -n 30 ../build.log >&2
    exit 1
}
cd ..
ls -- *.deb
