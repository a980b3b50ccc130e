# fish completion for wq-status. Made by `make manual` from its parser; do not edit.

function __wq_status_queues
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

complete -c wq-status -f
complete -c wq-status -s h -l help -d 'show this help message and exit'
complete -c wq-status -l config -r -F -d 'the YAML file'
complete -c wq-status -l run-directory -x -a '(__fish_complete_directories)' -d 'where the scoreboard lies, instead of a configuration'
complete -c wq-status -l version -d 'show program\'s version number and exit'
complete -c wq-status -l json -d 'print one JSON object'
complete -c wq-status -l watch -d 'show it live, until q or Ctrl-C'
complete -c wq-status -l interval -x -d 'of --watch'
complete -c wq-status -l check-backlog -d 'one line and an exit code, as monitoring plugins have them'
complete -c wq-status -l queue -x -a '(__wq_status_queues)' -d 'check this queue only'
complete -c wq-status -l warn-eta -x -d 'warn when a queue needs longer to be empty'
complete -c wq-status -l crit-eta -x -d 'critical when it needs longer'
complete -c wq-status -l warn-ready -x -d 'warn when more messages than this are ready'
complete -c wq-status -l crit-ready -x -d 'critical when more messages than this are ready'
