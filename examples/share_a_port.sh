#!/bin/sh
# Share a serial port: a server that any RFC 2217 client can use, and two clients, one after the other.
# The port is the built-in loopback device; with hardware it would be /dev/ttyUSB0,115200 instead of loop:.
set -eu
dir=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || :; wait; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

mkfifo "$dir/ready"
serpipe --quiet --ready-fd 3 rfc2217-listen:0 loop:,realtime=off 3>"$dir/ready" &
pids=$!
read -r _ address _ <"$dir/ready" # "ready 127.0.0.1:40123 -": it stands, and this is where

for rate in 9600 250000; do
    answer=$(echo "hello at $rate" | serpipe --quiet -t 300ms - "rfc2217://$address,$rate")
    echo "the port sent back: $answer"
    test "$answer" = "hello at $rate"
done
