# Sourced by scripts that need packages which nothing else is to see.

# own_venv NAME: makes .tools/NAME an environment with the dependency group of that name, and says
# so in $venv, its folder, and ${pip[@]}, which installs more into it.
own_venv() {
  venv=$PWD/.tools/$1
  pip=("$venv/bin/python" -m pip --quiet --no-input --disable-pip-version-check install)
  # Entry scripts carry the folder's absolute path, so a moved folder needs a new one.
  if [ "$(cat "$venv/.made-for" 2>/dev/null)" != "$venv" ]; then
    .venv/bin/python -m venv --clear "$venv"
    "${pip[@]}" 'pip>=25.1' # the first that knows --group
    printf '%s\n' "$venv" >"$venv/.made-for"
  fi
  "${pip[@]}" --group "$1"
}
