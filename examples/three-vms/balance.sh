#!/bin/sh
# A balancer in a few lines: the servers in /etc/servers are asked in turn, and one that does not
# answer within five seconds is passed over.
cat >/usr/bin/balance <<'END'
#!/bin/sh
read -r _ path _
while read -r line && [ "$line" != "$(printf '\r')" ]; do :; done
# Whose turn it is: the first line, which goes to the end for the next request.
servers=$(cat /etc/servers)
{ sed 1d /etc/servers; sed -n 1p /etc/servers; } >/etc/servers.new && mv /etc/servers.new /etc/servers
for server in $servers; do
  if body=$(wget -q -T 5 -O - "http://$server$path" 2>/dev/null); then
    printf 'HTTP/1.0 200 OK\r\nX-Server: %s\r\n\r\n%s\n' "$server" "$body"
    exit
  fi
done
printf 'HTTP/1.0 503 Service Unavailable\r\n\r\nno server answers\n'
END
chmod +x /usr/bin/balance
: >/etc/servers
nc -lk -p 8080 -e /usr/bin/balance &
