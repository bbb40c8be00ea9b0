"""Linear algebra on one thread."""

from threadpoolctl import threadpool_info, threadpool_limits

from strategies.threads import one_thread


def threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_what_numpy_and_scipy_compute_with_uses_one_thread_and_gets_its_own_back():
    with threadpool_limits(2):
        assert set(threads()) == {2}
        with one_thread():
            assert set(threads()) == {1}
        assert set(threads()) == {2}
