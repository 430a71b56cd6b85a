#!/bin/bash
# Pid 1 of a machine made of namespaces (tests/hosts.py): its own root (an overlay over this
# machine's, on a tmpfs that is its disk), /proc, /dev, /run, /dev/shm; then sshd.
#   host_init.sh NAME ADDRESS FOLDER VENV
set -euo pipefail
name=$1 address=$2 folder=$3 venv=$4
disk=$folder/$name/disk root=$folder/$name/disk/root
mount --make-rprivate /
mkdir -p "$disk/up" "$disk/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/up,workdir=$disk/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
for node in null zero full random urandom tty; do
  touch "$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/mnt/shared"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for stream in 0:stdin 1:stdout 2:stderr; do
  ln -s "/proc/self/fd/${stream%%:*}" "$root/dev/${stream##*:}"
done
mount -t tmpfs -o size=1g,mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=755 run "$root/run"
mkdir -p "$root/tmp/ray" # of this machine's own Ray nothing is seen
mount -t tmpfs -o mode=1777 ray "$root/tmp/ray"
mount --bind "$folder/shared" "$root/mnt/shared" # stands for a file server
if [ ! -e "$disk/.made" ]; then # a machine that is new: nothing of the real root's own
  touch "$disk/.made"
  rm -rf "$root"/tmp/ray-* "$root"/root/{.ray,.ssh,.config,.cache,.aws,ray_results,venv}
  install -d -m 700 "$root/root/.ssh"
  install -m 600 "$folder/key.pub" "$root/root/.ssh/authorized_keys"
  ln -s "$venv" "$root/root/venv"
  # stands for the package index, so that setup commands run as they are, offline
  printf '[global]\nno-index = true\nfind-links = /mnt/shared/wheels\n' >"$root/etc/pip.conf"
  [ ! -f "$folder/shared/bashrc" ] || cat "$folder/shared/bashrc" >>"$root/root/.bashrc"
  echo "$name" >"$root/etc/hostname"
  printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" >"$root/etc/hosts"
  ssh-keygen -q -t ed25519 -N '' -f "$root/etc/ssh/lab_host_key"
fi
hostname "$name"
mkdir -p "$root/run/sshd"
touch "$folder/$name/ready"
if [ "$name" = ctl ]; then # the user's own computer
  install -m 600 "$folder/key" "$root/root/.ssh/id_ed25519"
  exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root chroot "$root" sleep infinity
fi
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
  LANG=C.UTF-8 chroot "$root" /usr/sbin/sshd -D -e -h /etc/ssh/lab_host_key \
  -o PasswordAuthentication=no -o UsePAM=no -o MaxStartups=50 -o MaxSessions=50
