# fish completion for wq-broker. Made by `make manual` from its parser; do not edit.

function __wq_broker_queues
    set -l words (commandline -opc)
    set -l file /etc/workqueued/workqueued.yaml
    set -q WQ_CONFIG; and set file $WQ_CONFIG
    set -l at (contains -i -- --config $words); and set file $words[(math $at + 1)]
    set -l joined (string replace -f -r '^--config=' '' -- $words); and set file $joined[-1]
    awk '
    /^queues:/ { inside = 1; next }
    /^[^ #]/ { inside = 0 }
    inside && match($0, /^ +[^ #-]/) && (!depth || RLENGTH == depth) && /:( |$)/ {
        depth = RLENGTH; name = substr($0, RLENGTH); sub(/: .*$|:$/, "", name); gsub(/["\\047]/, "", name); print name
    }
' (string replace -r '^~/' "$HOME/" -- $file) 2>/dev/null
end

complete -c wq-broker -f
complete -c wq-broker -s h -l help -d 'show this help message and exit'
complete -c wq-broker -l directory -x -a '(__fish_complete_directories)' -d 'where it lives'
complete -c wq-broker -l port -x -d 'its AMQP port, remembered'
complete -c wq-broker -l quiet -d 'print the URL and errors only'
complete -c wq-broker -l version -d 'show program\'s version number and exit'
