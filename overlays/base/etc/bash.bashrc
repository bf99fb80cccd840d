# Interactive shells, and those that sshd starts for a command.
if [ "$EUID" = 1000 ]; then
    set -a
    . /usr/lib/stereos/agent/environment
    set +a
fi
[ -n "$PS1" ] || return
shopt -s checkwinsize
PS1='\u@\h:\w\$ '
