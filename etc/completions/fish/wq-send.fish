# fish completion for wq-send. Made by `make manual` from its parser; do not edit.

function __wq_send_queues
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

complete -c wq-send -f
complete -c wq-send -s h -l help -d 'show this help message and exit'
complete -c wq-send -l lines -d 'a message for every line, its bytes as they are'
complete -c wq-send -l ndjson -d 'a message for every JSON line'
complete -c wq-send -l file -r -F -d 'read from FILE instead of stdin'
complete -c wq-send -l skip -x -d 'leave out the first N lines'
complete -c wq-send -l queue -x -a '(__wq_send_queues)' -d 'the queue'
complete -c wq-send -s H -l header -x -d 'a header'
complete -c wq-send -l type -x -d 'the AMQP type property'
complete -c wq-send -l message-id -x -d 'the message id'
complete -c wq-send -l content-type -x -d 'the AMQP content type property'
complete -c wq-send -l priority -x -d 'the AMQP priority property'
complete -c wq-send -l delay -x -d 'let it wait on the broker first, such as 10m'
complete -c wq-send -l at -x -d 'let it wait until then, such as 2026-12-24T18:00:00+01:00'
complete -c wq-send -l expires -x -d 'drop it when it waited this long, such as 10m'
complete -c wq-send -l config -r -F -d 'the YAML file'
complete -c wq-send -l url -x -d 'the broker, instead of the configuration\'s'
complete -c wq-send -l timeout -x -d 'total time for connecting, blocking and confirming'
complete -c wq-send -s q -l quiet -d 'print no message ids'
complete -c wq-send -l json -d 'print {"message_id"'
complete -c wq-send -l version -d 'show program\'s version number and exit'
