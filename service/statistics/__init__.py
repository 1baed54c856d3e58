"""What can be said about arms of a study, and with which uncertainty. Pure: arrays in, numbers out.

    counts of right samples ──> scores      a value for each prompt and run
                                  │
                                  ├──> two_way      mean and interval: over seeds, and over prompts
                                  ├──> comparison   difference of two arms, permutation p-value, Holm over arms
                                  ├──> power        how many further seeds would show a difference
                                  └──> association  a property of runs against another, with its interval

An arm's runs have two sources of chance. **Seeds**: another SFT or RL seed gives another policy. **Prompts**: another
set of the same kind gives other tasks. All runs answer the same prompts, so the two are crossed, not nested.
"""
