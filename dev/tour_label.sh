#!/bin/sh
# The message is on stdin, what is known about it in the environment; exit code 0 means done.
printf 'label for %s (message %s)\n' "$(cat)" "$WQ_MESSAGE_ID"
