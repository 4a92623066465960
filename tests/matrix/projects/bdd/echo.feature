Feature: an echo in a VM
  Scenario Outline: what is sent comes back
    Given a VM that echoes
    When I send <word>
    Then <word> comes back

    Examples:
      | word  |
      | one   |
      | other |
