"""The only way out of a sandbox with `egress_allow`: a process that relays what the rules allow, and logs everything.

The guest's network ends in an empty namespace; this process holds the sockets that listen there, and lives itself where
the host's network is. It offers an HTTP proxy (`proxy`), a name server (`nameserver`) and plain relays to ports of the
host's loopback (`gate`). `policy` decides, `passage` connects, `log` writes down, `client` is what a supervisor uses.

Why no ready-made proxy. proxy.py 2.4, whose source was read, looks names up and connects in the event loop, blocking
every other connection; it queues without bound what a slow reader does not take and keeps whole responses in memory; of
a request with both Content-Length and Transfer-Encoding it believes one and forwards both; and later requests of a
connection go to wherever the first one went. mitmproxy was judged by its purpose, which is to open TLS, and by the some
25 packages that it needs, a web server and an LDAP client among them, next to the one process that stands between a
hostile guest and the host. So HTTP is h11's, which parses strictly and does no I/O, DNS is dnspython's, and what is
left to us is the decision, which is the point.
"""
