"""Who is to blame when a run cannot go on."""

from xlt_scale.cluster.verdict import Limits, Peer, find_verdict

LIMITS = Limits(lost_after=60.0, standstill=1800.0, step=600.0)


def peers_of(*hosts: str, now: float = 0.0) -> list[Peer]:
    """Ranks 0, 1, ... on these hosts, all at step 40 just now."""
    peers = [Peer(rank, host, 1000 + rank, heard_at=now) for rank, host in enumerate(hosts)]
    for peer in peers:
        peer.heard(now, "phase target, step 40", 40, 0.0, is_stepping=True)
    return peers


def test_all_is_well_while_everybody_speaks_and_moves() -> None:
    assert find_verdict(peers_of("node1", "node2"), LIMITS, now=59.0) is None


def test_a_rank_that_is_silent_too_long_is_lost_and_named_with_its_node() -> None:
    peers = peers_of("node1", "node1", "node2", "node2")
    for peer in peers[:3]:
        peer.heard(61.0, "phase target, step 41", 41, 0.0, is_stepping=True)
    verdict = find_verdict(peers, LIMITS, now=61.0)
    assert verdict is not None and (verdict.code, verdict.lost_rank, verdict.lost_node) == (86, 3, "node2")
    assert "rank 3 on node2 (process 1003) not heard of for 61 s" in verdict.reason
    assert "step 40" in verdict.reason


def test_a_node_is_named_as_a_whole_when_all_its_ranks_are_silent() -> None:
    peers = peers_of("node1", "node2", "node2")
    peers[0].heard(70.0, "phase target, step 41", 41, 0.0, is_stepping=True)
    verdict = find_verdict(peers, LIMITS, now=70.0)
    assert verdict is not None and "node node2 with its 2 ranks not heard of" in verdict.reason


def test_a_broken_connection_counts_as_a_loss_unless_the_rank_comes_back() -> None:
    peers = peers_of("node1", "node2")
    peers[1].broke_at = 5.0
    assert find_verdict(peers, LIMITS, now=6.0) is None
    verdict = find_verdict(peers, LIMITS, now=8.0)
    assert verdict is not None and "rank 1 on node2" in verdict.reason and "ended without a word" in verdict.reason
    peers[1].met(8.0, "node2", 1001)
    assert find_verdict(peers, LIMITS, now=9.0) is None


def test_a_rank_that_has_said_goodbye_is_not_missed() -> None:
    peers = peers_of("node1", "node2")
    peers[1].has_left, peers[1].broke_at = True, 1.0
    peers[0].heard(1000.0, "scoring", 0, 0.0, is_stepping=False)
    assert find_verdict(peers, LIMITS, now=1000.0) is None


def test_a_rank_that_tells_of_its_failure_is_quoted_with_its_exit_code() -> None:
    peers = peers_of("node1", "node2")
    peers[1].failure, peers[1].failure_code = "KeyError: 'x'", 1
    verdict = find_verdict(peers, LIMITS, now=1.0)
    assert verdict is not None and (verdict.code, verdict.reason) == (1, "rank 1 on node2: KeyError: 'x'")
    assert verdict.lost_node == "", "a mistake in the program is no reason to leave out the node"


def at(peers: list[Peer], now: float, steps: list[int], since: list[float], is_stepping: bool = True) -> list[Peer]:
    for peer, step, seconds in zip(peers, steps, since, strict=True):
        peer.heard(now, f"phase target, step {step}", step, seconds, is_stepping)
    return peers


def test_when_nothing_moves_the_rank_behind_the_others_is_to_blame() -> None:
    peers = at(peers_of("node1", "node1", "node2"), 700.0, steps=[41, 41, 40], since=[601.0, 601.0, 650.0])
    verdict = find_verdict(peers, LIMITS, now=700.0)
    assert verdict is not None and (verdict.code, verdict.lost_rank) == (86, 2)
    assert "nothing has moved for 601 s: rank 2 on node2" in verdict.reason
    assert "the others at step 41" in verdict.reason


def test_one_rank_that_gets_on_keeps_all_alive() -> None:
    peers = at(peers_of("node1", "node2"), 700.0, steps=[41, 41], since=[650.0, 3.0])
    assert find_verdict(peers, LIMITS, now=700.0) is None


def test_outside_steps_the_longer_limit_holds() -> None:
    peers = at(peers_of("node1", "node2"), 1700.0, steps=[0, 0], since=[1700.0, 1700.0], is_stepping=False)
    assert find_verdict(peers, LIMITS, now=1700.0) is None
    peers = at(peers_of("node1", "node2"), 1900.0, steps=[0, 0], since=[1801.0, 1850.0], is_stepping=False)
    verdict = find_verdict(peers, LIMITS, now=1900.0)
    assert verdict is not None and "all 2 ranks" in verdict.reason and "rank 1 on node2" in verdict.reason


def test_a_rank_that_never_came_is_said_to_have_never_come() -> None:
    peers = [*peers_of("node1", now=100.0), Peer(1, "", 0, heard_at=0.0)]
    verdict = find_verdict(peers, LIMITS, now=100.0)
    assert verdict is not None and "rank 1 which has never come" in verdict.reason


def test_several_words_fit_into_the_time_after_which_a_rank_is_lost() -> None:
    for seconds in (3.0, 10.0, 60.0, 600.0):
        assert Limits(seconds, 1.0, 1.0).interval <= seconds / 6 + 0.2
