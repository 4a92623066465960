#!/bin/sh
# A server of the files in /srv: the test writes one there when the server's name is known.
mkdir -p /srv
cat >/usr/bin/answer <<'END'
#!/bin/sh
read -r _ path _
# All of the request, to its empty line: what is left unread would reset the connection.
while read -r line && [ "$line" != "$(printf '\r')" ]; do :; done
[ -f "/srv$path" ] || { printf 'HTTP/1.0 404 Not Found\r\n\r\n'; exit; }
printf 'HTTP/1.0 200 OK\r\n\r\n'
cat "/srv$path"
END
chmod +x /usr/bin/answer
nc -lk -p 80 -e /usr/bin/answer &
