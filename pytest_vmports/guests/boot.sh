#!/bin/busybox sh
# Run once by busybox init before anything else. Its output is the console.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
cd /root
inside= disk=
arg() { for word in $(cat /proc/cmdline); do case $word in "$1="*) echo "${word#*=}"; esac; done; }
# Told to the host by the agent, which runs next.
report() { echo "$1" >/vmports/code; }
root=$(arg vmports.root)
# A guest whose programs are on a disk: all but this script and the agent's runs in its root.
if [ -n "$root" ]; then
  disk=/vmports/disk
  modprobe -qa virtio_pci virtio_blk ext4
  mkdir -p "$disk"
  # What of an empty disk is not made yet is made as it is needed.
  mount -t ext4 -o noinit_itable "$root" "$disk" || { echo "vmports: its disk $root cannot be mounted"; report 96; exit; }
  files=$(arg vmports.files)
  if [ -n "$files" ] && [ ! -e "$disk/vmports" ]; then  # else they are there, and this is a reset
    for from in /sys/block/*; do
      [ "$(cat "$from/serial" 2>/dev/null)" != "$files" ] || break
    done
    tar -xpf "/dev/${from##*/}" -C "$disk" || { echo "vmports: the image's files cannot be unpacked"; report 95; exit; }
  fi
  for own in proc sys dev vmports; do
    mkdir -p "$disk/$own"
    mount -o bind "/$own" "$disk/$own"
  done
  mkdir -p /dev/shm
  mount -t devpts devpts "$disk/dev/pts"
  mount -t tmpfs -o mode=1777 shm "$disk/dev/shm"
  # As udev or a container's runtime makes them: a container's log may be a link to its output.
  ln -sf /proc/self/fd "$disk/dev/fd"
  for name in 0:stdin 1:stdout 2:stderr; do ln -sf "/proc/self/fd/${name%:*}" "$disk/dev/${name#*:}"; done
  # As Docker has it: there a service of any user's listens at any port, and pings.
  if [ -f /vmports/service ]; then
    echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
    echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range
  fi
  mkdir -p "$disk/run" "$disk/tmp" "$disk/root"
  mount -t tmpfs -o mode=755 run "$disk/run"
  [ ! -d /vmports/root ] || cp -a /vmports/root/. "$disk/"
  # OpenRC starts services for whoever asks, though it has not booted the system.
  [ ! -e "$disk/sbin/openrc-run" ] || { mkdir -p "$disk/run/openrc"; echo default >"$disk/run/openrc/softlevel"; }
  inside=/vmports/inside
fi
# Further disks and cards; nothing else here loads drivers by itself.
! grep -qw vmports.nics /proc/cmdline || modprobe -qa virtio_pci virtio_net
! grep -qw vmports.disks /proc/cmdline || modprobe -qa virtio_pci virtio_blk
address=$(arg vmports.ip)
ip link set lo up
if [ -n "$address" ]; then
  modprobe -qa virtio_pci virtio_net
  ip link set eth0 up
  # duplicate address detection would keep IPv6 from serving for a second
  echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad 2>/dev/null
  ip addr add "$address/24" dev eth0 || { echo "vmports: no network card was found"; report 97; exit; }
  ip route add default via "$(arg vmports.gateway)"
  rm -f "$disk/etc/resolv.conf"
  echo "nameserver $(arg vmports.dns)" >"$disk/etc/resolv.conf"
fi
# The second card, on a network that VMs share: found by its address, for its name depends on
# whether there is a first.
lan=$(arg vmports.lan_ip)
if [ -n "$lan" ]; then
  modprobe -qa virtio_pci virtio_net
  for card in /sys/class/net/*; do
    [ "$(cat "$card/address")" = "$(arg vmports.lan_mac)" ] || continue
    card=${card##*/}
    echo 0 >"/proc/sys/net/ipv6/conf/$card/accept_dad" 2>/dev/null
    ip link set "$card" up
    ip addr add "$lan/24" dev "$card" && lan=
  done
  [ -z "$lan" ] || { echo "vmports: no card of the shared network was found"; report 97; exit; }
fi
mkdir -p "$disk/etc"
echo "127.0.0.1 localhost" >"$disk/etc/hosts"
hostname vmports
code=0
for setup in /vmports/setup.d/*; do
  [ -f "$setup" ] || continue
  # A script without a first line that names its interpreter is run by sh.
  case $(head -c 2 "$setup") in
    '#!') $inside sh -c 'cd; exec "$0"' "$setup" </dev/null ;;
    *) $inside sh -c 'cd; exec sh "$0"' "$setup" </dev/null ;;
  esac
  code=$?
  echo "vmports: setup ended with $code"
  [ "$code" = 0 ] || break
done
report "$code"
if [ "$code" = 0 ] && [ -f /vmports/service ]; then
  { setsid sh /vmports/service </dev/null 2>&1; echo "vmports: the service has ended with $?"; } | cat &
fi
