# Keeps one emulator. Its standard input is a pipe that the owner holds; the end
# of it means that the owner is gone, whatever the reason, and the emulator and
# its folder go too.
dir=$1
shift
cd "$dir" || exit 1
"$@" >"$dir/log" 2>&1 </dev/null &
cat >/dev/null
kill -9 $! 2>/dev/null
wait
cd / && rm -rf "$dir"
