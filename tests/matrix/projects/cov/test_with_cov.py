import app
import pytest

pytestmark = pytest.mark.vmports(8080, setup="nc -lk -p 8080 -e cat &")


@pytest.mark.parametrize("word", ["quiet", "loud"])
def test_shout(vm_with_ports, word):
    assert app.shout(vm_with_ports, word) == {"quiet": "quiet", "loud": "LOUD"}[word]
