# Keeps one private PostgreSQL server. Its standard input is a pipe that the
# owner holds: a line is an order, answered by its exit status; the end of the
# input means that the owner is gone, whatever the reason, and all goes with it.
#
# Orders are carried out one after the other and here alone, so there is no
# moment at which a server could come up unseen while the owner dies.
dir=$1 bin=$2

# An answer that nobody hears must not end the keeper before it has cleaned up.
trap '' PIPE

# The folder is made here so that none is left when the owner dies before.
cd / && mkdir -m 700 "$dir" || exit 1

answer() {
	"$@" >>"$dir/log" 2>&1
	echo $? 2>/dev/null
}

while read -r order; do
	case $order in
	init) answer "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync --no-instructions ;;
	start) answer "$bin/pg_ctl" start -s -w -t 120 -D "$dir/data" -l "$dir/log" ;;
	stop) answer "$bin/pg_ctl" stop -s -w -t 120 -m fast -D "$dir/data" ;;
	kill) answer "$bin/pg_ctl" stop -s -w -t 120 -m immediate -D "$dir/data" ;;
	restart) answer "$bin/pg_ctl" restart -s -w -t 120 -m fast -D "$dir/data" -l "$dir/log" ;;
	*) echo "unknown order" ;;
	esac
done

if [ -f "$dir/data/postmaster.pid" ]; then
	"$bin/pg_ctl" stop -s -w -m immediate -D "$dir/data" >/dev/null 2>&1
fi
cd / && rm -rf "$dir"
exit 0
