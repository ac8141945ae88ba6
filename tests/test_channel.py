import threading
import time

import pytest
from clocks import eventually

from vlf_edge.runtime.channel import Channel, ChannelClosed


def in_thread(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_a_full_channel_waits_for_the_receiver():
    channel, sent = Channel(2, drop_oldest=False), []

    def sender():
        for item in range(10):
            channel.send(item)
            sent.append(item)
        channel.close()

    thread = in_thread(sender)
    eventually(lambda: len(sent) == 2)
    time.sleep(0.05)
    assert len(sent) == 2
    assert list(channel) == list(range(10))
    thread.join(60)
    assert not thread.is_alive() and channel.dropped == 0


def test_a_full_channel_drops_the_oldest_and_counts():
    channel = Channel(2, drop_oldest=True)
    for item in range(10):
        channel.send(item)
    channel.close()
    assert list(channel) == [8, 9] and channel.dropped == 8


def test_what_was_sent_arrives_before_the_error():
    channel, seen = Channel(4, drop_oldest=False), []
    channel.send(1)
    channel.close(ValueError("camera burnt"))
    channel.close(KeyError("a later one does not replace it"))
    with pytest.raises(ValueError, match="camera burnt"):
        for item in channel:
            seen.append(item)
    assert seen == [1]


@pytest.mark.parametrize("end", ["send", "receive"])
def test_close_wakes_a_waiting_end(end):
    channel, outcome = Channel(1, drop_oldest=False), []
    if end == "send":
        channel.send(0)

    def wait():
        try:
            channel.send(1) if end == "send" else channel.receive()
        except ChannelClosed:
            outcome.append("closed")

    thread = in_thread(wait)
    time.sleep(0.05)
    channel.close(discard=True)
    thread.join(60)
    assert outcome == ["closed"] and not thread.is_alive()
