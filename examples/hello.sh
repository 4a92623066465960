#!/bin/sh
# A web server of one page, and a UDP service that answers in capitals.
mkdir -p /srv
cat >/srv/answer <<'EOF'
#!/bin/sh
read -r request
# All of it, to the empty line: what is left unread when a connection is closed resets it.
while read -r line && [ "$line" != "$(printf '\r')" ]; do :; done
body="you asked: $request"
printf 'HTTP/1.0 200 OK\r\nContent-Length: %d\r\nContent-Type: text/plain\r\n\r\n%s' ${#body} "$body"
EOF
cat >/srv/shout <<'EOF'
#!/bin/sh
# One datagram is one read; the shell's read would take its first byte and lose the rest.
dd bs=2048 count=1 2>/dev/null | tr a-z A-Z
EOF
chmod +x /srv/answer /srv/shout
nc -lk -p 8080 -e /srv/answer &
while :; do nc -u -l -p 5353 -e /srv/shout; done &
