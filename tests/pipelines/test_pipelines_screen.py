import io

from pipelines.screen import Screen

# As kfp 2.17.0 prints it, copied from a run.
RAW = """\
    [KFP Executor 2026-11-23 21:37:52,357 INFO]: Looking for component `prepare`
    [KFP Executor 2026-11-23 21:37:52,358 INFO]: Got executor_input:
    {
        "inputs": {
            "parameterValues": {}
        }
    }
    prepare: 3 images
        indented by the step itself
    [KFP Executor 2026-11-23 21:37:53,359 WARNING]: disk is nearly full
    [KFP Executor 2026-11-23 21:37:53,360 INFO]: Wrote executor output file to /tmp/x.

--------------------------------------------------------------------------------
"""


def test_only_the_steps_own_lines_and_warnings_are_shown():
    terminal = io.StringIO()
    screen = Screen(terminal)
    for start in range(0, len(RAW), 7):  # a pipe gives pieces, not lines
        screen.write(RAW[start : start + 7])
    shown = [
        "prepare: 3 images",
        "    indented by the step itself",
        "[KFP Executor 2026-11-23 21:37:53,359 WARNING]: disk is nearly full",
    ]
    assert terminal.getvalue().splitlines() == shown
    assert screen.last_lines == shown


def test_complaint_of_a_step_is_left_to_whoever_explains_the_failure():
    terminal = io.StringIO()
    screen = Screen(terminal)
    screen.write("    prepare: 3 images\n    sightline prepare: no folder x\n")
    assert terminal.getvalue() == "prepare: 3 images\n"
    assert screen.last_lines == ["prepare: 3 images", "sightline prepare: no folder x"]
