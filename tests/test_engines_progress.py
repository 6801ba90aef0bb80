from sttm_export.engines.progress import PhaseTree


def test_nested_phases_make_one_fraction():
    seen = []
    tree = PhaseTree(lambda phase, fraction: seen.append((phase, round(fraction, 3))))
    tree.start("build", None, 2)
    tree.start("prepare", "build", 4)
    tree.step("prepare", 0)
    tree.step("prepare", 1)
    tree.finish("prepare")
    tree.step("build", 0)
    tree.start("optimize", "build", 2)
    tree.step("optimize", 0)
    tree.finish("optimize")
    tree.step("build", 1)
    tree.finish("build")
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert ("prepare", 0.25) in seen
    assert ("build", 0.5) in seen
    assert ("optimize", 0.75) in seen


def test_fraction_never_falls_when_a_phase_opens_again_in_one_step():
    seen = []
    tree = PhaseTree(lambda _, fraction: seen.append(fraction))
    tree.start("build", None, 2)
    for _ in range(3):
        tree.start("costs", "build", 2)
        tree.step("costs", 0)
        tree.step("costs", 1)
        tree.finish("costs")
    assert seen == sorted(seen)
    assert max(seen) == 0.5


def test_steps_past_the_announced_number_and_unknown_phases_do_no_harm():
    seen = []
    tree = PhaseTree(lambda _, fraction: seen.append(fraction))
    tree.start("build", None, 0)
    tree.step("build", 5)
    tree.step("stranger", 0)
    tree.finish("stranger")
    tree.finish("build")
    assert seen == [0.0, 1.0, 1.0, 1.0, 1.0]
