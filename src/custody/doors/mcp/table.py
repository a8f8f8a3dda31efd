"""Every tool that this door has beside the runtime's registry.

Used by `offering`, `server` and the reference.
"""

from custody.doors.mcp import plans, questions, skills, working
from custody.doors.mcp.tool import DoorTool

DOOR_TOOLS: tuple[DoorTool, ...] = tuple(
    sorted((*plans.TOOLS, *questions.TOOLS, *skills.TOOLS, *working.TOOLS), key=lambda tool: tool.name)
)

BY_NAME = {tool.name: tool for tool in DOOR_TOOLS}
