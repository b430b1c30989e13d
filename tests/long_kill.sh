#!/bin/bash
# tests/test_kill.sh with a hundred of each signal.
exec bash "$(dirname "$0")/test_kill.sh" "$1" 100
