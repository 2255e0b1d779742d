# What the three fakes share: real use, counted, against limits that are read from a file.
#
# EF_FAKE_QUOTA: file of lines "SCOPE ID SOFT_KB HARD_KB SOFT_FILES HARD_FILES GRACE_S" (0 is no limit), SCOPE user, group
# or project; and "project-of DIR ID". When use goes past a soft limit, the end of the grace period is kept beside the file.
# EF_FAKE_QUOTA_DIR: the directory that counts, also the mount point and the location of lquota.
# EF_FAKE_QUOTA_HANG: do as a client of a dead server does.

if [ -n "$EF_FAKE_QUOTA_HANG" ]; then
  trap '' TERM INT HUP
  echo $$ >>"$EF_FAKE_QUOTA_HANG"
  while :; do sleep 1; done
fi

# load SCOPE ID: fails if it has no limits.
load() {
  line=$(grep "^$1 $2 " "$EF_FAKE_QUOTA") || return 1
  # shellcheck disable=SC2086 # seven words
  set -- $line
  scope=$1 id=$2 soft=$3 hard=$4 isoft=$5 ihard=$6 grace=$7
  used=$(du -sk "$EF_FAKE_QUOTA_DIR" | cut -f1)
  files=$(find "$EF_FAKE_QUOTA_DIR" -printf x | wc -c)
  bend=$(grace_end b "$used" "$soft") iend=$(grace_end i "$files" "$isoft")
}

# grace_end KIND USED SOFT: when the grace period ends, in seconds since 1970; 0 below the soft limit.
grace_end() {
  kept=$EF_FAKE_QUOTA.$scope.$id.$1
  if [ "$3" -gt 0 ] && [ "$2" -gt "$3" ]; then
    # By a rename: two tools ask at once, and neither may see an empty file.
    [ -e "$kept" ] || { echo $(($(date +%s) + grace)) >"$kept.$$" && mv "$kept.$$" "$kept"; }
    cat "$kept"
  else
    rm -f "$kept"
    echo 0
  fi
}

# mark USED SOFT HARD: the asterisk of what is past a limit.
mark() {
  if [ "$3" -gt 0 ] && [ "$1" -ge "$3" ] || [ "$2" -gt 0 ] && [ "$1" -gt "$2" ]; then echo '*'; else echo ' '; fi
}
