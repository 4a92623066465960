# Sourced by bash: where this machine gets its packages from.
# shellcheck shell=bash

# The system's own entry for suite $1, copied with its mirror, options and keys (so signatures are
# checked as ever) into folder $2; suite and components become $3 and $4 (empty: as they were),
# the architecture $5 (empty: this machine's).
copy_sources_entry() {
  local have_suite=$1 into=$2 suite=$3 components=$4 arch=${5-} file
  local APT_LIST='' APT_PARTS=''
  [ -n "$arch" ] || arch=$(dpkg --print-architecture)
  eval "$(apt-config shell APT_LIST Dir::Etc::sourcelist/f APT_PARTS Dir::Etc::sourceparts/d)"
  for file in "${APT_PARTS%/}"/*.sources; do
    [ -r "$file" ] || continue
    # deb822: a paragraph per entry, fields may go on in indented lines.
    grep -v '^#' "$file" | awk -v RS= -v FS='\n' \
      -v have="$have_suite" -v suite="$suite" -v components="$components" -v arch="$arch" '
      function value(name,  v) { v = " " field[name] " "; gsub(/[ \t\n]+/, " ", v); return v }
      {
        split("", field); kept = ""
        for (i = 1; i <= NF; i++) {
          if ($i !~ /^[ \t]/) {
            name = tolower(substr($i, 1, index($i, ":") - 1))
            field[name] = substr($i, index($i, ":") + 1)
          } else field[name] = field[name] "\n" $i
          drop = name ~ /^(types|suites|enabled|architectures|targets|languages)$/
          if (name == "components" && components != "") drop = 1
          if (!drop) kept = kept $i "\n"
        }
        if (index(value("types"), " deb ") && index(value("suites"), " " have " ") &&
            tolower(value("enabled")) !~ / (no|false|off|0|without|disable) / &&
            (components == "" || index(value("components"), " " components " "))) {
          printf "Types: deb\nSuites: %s\nArchitectures: %s\nTargets: Packages\n", suite, arch
          if (components != "") printf "Components: %s\n", components
          printf "%s", kept
          exit
        }
      }' >"$into/own.sources"
    [ ! -s "$into/own.sources" ] || return 0
  done
  for file in "$APT_LIST" "${APT_PARTS%/}"/*.list; do
    [ -r "$file" ] || continue
    # One line per entry: deb [options] URI suite component...
    awk -v have="$have_suite" -v suite="$suite" -v components="$components" -v arch="$arch" '
      /^[ \t]*deb[ \t]/ {
        sub(/^[ \t]*deb[ \t]+/, ""); sub(/[ \t]*#.*/, ""); options = ""
        if (match($0, /^\[[^]]*\][ \t]*/)) {
          options = substr($0, 2, index($0, "]") - 2)
          $0 = substr($0, RLENGTH + 1)
        }
        if ($2 != have) next
        own = ""; fits = components == ""
        for (i = 3; i <= NF; i++) { own = own " " $i; fits = fits || $i == components }
        if (!fits) next
        if (options !~ /(^|[ \t])arch=/) options = "arch=" arch " " options
        print "deb [target=Packages " options "]", $1, suite, (components != "" ? components : own)
        exit
      }' "$file" >"$into/own.list"
    [ ! -s "$into/own.list" ] || return 0
  done
  return 1
}
