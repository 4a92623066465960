"""What the role promises."""

import httpx


def test_nginx_runs_now_and_after_a_boot(server):
    nginx = server.host.service("nginx")
    assert nginx.is_running
    assert nginx.is_enabled


def test_nobody_but_root_may_change_the_configuration(server):
    file = server.host.file("/etc/nginx/sites-enabled/default")
    assert (file.user, file.mode) == ("root", 0o644)
    assert not file.is_symlink


def test_visitors_see_the_page_and_no_version(server):
    answer = httpx.get(server.vm[80].url)
    assert "<h1>An example</h1>" in answer.text
    assert answer.headers["server"] == "nginx"


def test_a_second_run_changes_nothing(server):
    run = server.play()
    assert run.changed == 0, run.output
    assert run.handlers == []


def test_another_port_is_served_at_once(changeable):
    run = changeable.play(site_port=8080, site_title="Ports & more")
    assert run.changed == 2, run.output  # the configuration, and the handler
    assert run.handlers == ["site : Reload nginx"]
    assert "<h1>Ports &amp; more</h1>" in httpx.get(changeable.vm[8080].url).text
    assert not changeable.host.socket("tcp://0.0.0.0:80").is_listening
