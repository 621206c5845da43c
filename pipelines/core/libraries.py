"""Diffusers, transformers and what they load when they are used, imported in one go: to be imported before any part of them.

    import pipelines.core.libraries

Their packages import one another in circles and fill in names late. Two threads that begin at different places of such a circle, as a
run on the lane and a page that reads its results back do, are let through by Python with modules that are half there, and what one of
them has bound then stays half. Behind this one door, which Python locks like every module, the second thread waits for the first.
"""

import diffusers.pipelines.pipeline_utils  # noqa: F401
import transformers.modeling_utils  # noqa: F401
