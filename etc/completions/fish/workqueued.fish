# fish completion for workqueued. Made by `make manual` from its parser; do not edit.

function __workqueued_queues
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

complete -c workqueued -f
complete -c workqueued -s h -l help -d 'show this help message and exit'
complete -c workqueued -l config -r -F -d 'the YAML file'
complete -c workqueued -l check -d 'check the file and import its handlers, then exit'
complete -c workqueued -l print-config -d 'print the configuration with all defaults, without passwords'
complete -c workqueued -l print-schema -d 'print the JSON Schema of the file, for editors'
complete -c workqueued -l version -d 'show program\'s version number and exit'
