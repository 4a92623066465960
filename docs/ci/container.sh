#!/bin/sh
# Runs the tests of the current folder in a container: container.sh [words for pytest]
# CONTAINER=podman takes another program than docker.
set -eu
kvm=
[ ! -w /dev/kvm ] || kvm='--device /dev/kvm'
# $kvm is two words, or none.
exec "${CONTAINER:-docker}" run --rm $kvm --volume "$PWD:/project" --workdir /project \
  --env VMPORTS_CACHE_STORE=/project/.vmports-store --env VMPORTS_ARTIFACTS=vm-artifacts \
  --env VMPORTS_MISSING=error --env VMPORTS_REPORT=yes python:3.12-bookworm sh -euc '
    apt-get update
    apt-get install -y --no-install-recommends qemu-system-x86 qemu-utils
    python -m pip install "pytest-vmports[alpine,store]" pytest-xdist
    exec pytest -n auto "$@"
  ' sh "$@"
