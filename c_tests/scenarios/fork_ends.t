title the end of a process: a worker dies, the delivery process dies
include base.inc
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
signal 2 9
expect within 10 down
expect log "*exited by a signal 9"
start
signal p1 9
expect within 10 down
start
signal attendant 15
expect within 10 down 0
