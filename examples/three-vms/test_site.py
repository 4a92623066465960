"""Whoever visits the site is served, as long as one server is left."""


def test_the_servers_take_turns(site):
    assert site.asked(4) == ["red", "blue", "red", "blue"]


def test_a_server_that_is_gone_is_passed_over(site):
    site.servers["red"].shutdown()
    assert site.asked(2) == ["blue", "blue"]


def test_a_server_that_hangs_is_passed_over(site):
    site.servers["blue"].pause()
    assert site.asked(2) == ["red", "red"]
    site.servers["blue"].resume()
    assert set(site.asked(2)) == {"red", "blue"}


def test_without_any_server_the_balancer_says_so(site):
    for server in site.servers.values():
        server.run("killall nc")
    answer = site.ask()
    assert answer.status_code == 503
    assert answer.text == "no server answers\n"


def test_the_servers_are_hidden_from_the_host(site):
    assert [len(server) for server in site.servers.values()] == [0, 0]  # forwards
    assert site.ask("/other").status_code == 503
