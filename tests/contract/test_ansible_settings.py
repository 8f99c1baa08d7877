"""Every setting of Ansible is either required by a run, or harmless to it for a reason that stands here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible import constants

from mobius.control.run.ansible_settings import REQUIRED, require_settings
from mobius.errors import MobiusError

CHECKOUT = Path(__file__).resolve().parents[2]

HARMLESS: dict[str, str] = {
    "only what is shown, where it is logged, and how prompts look": """
        ACTION_WARNINGS ANSIBLE_COW_ACCEPTLIST ANSIBLE_COW_PATH ANSIBLE_COW_SELECTION ANSIBLE_FORCE_COLOR ANSIBLE_NOCOLOR
        ANSIBLE_NOCOWS COLOR_.* DEFAULT_DEBUG DEFAULT_LOG_FILTER DEFAULT_LOG_PATH DEFAULT_STDOUT_CALLBACK
        DEFAULT_VERBOSITY DEPRECATION_WARNINGS DEVEL_WARNING DIFF_ALWAYS DIFF_CONTEXT DISPLAY_.* EDITOR
        INVENTORY_UNPARSED_WARNING LOCALHOST_WARNING LOG_VERBOSITY MAX_FILE_SIZE_FOR_DIFF PAGER SHOW_CUSTOM_STATS
        SYSTEM_WARNINGS VERBOSE_TO_STDERR DEFAULT_NO_TARGET_SYSLOG DEFAULT_SYSLOG_FACILITY TARGET_LOG_INFO
        DUPLICATE_YAML_DICT_KEY AGNOSTIC_BECOME_PROMPT""",
    "how hosts are reached: a wrong value reaches none, and SSH's host keys are the inventory's business": """
        ANSIBLE_CONNECTION_PATH ANSIBLE_PIPELINING BECOME_.* CONNECTION_PASSWORD_FILE DEFAULT_ASK_PASS
        DEFAULT_BECOME.* DEFAULT_EXECUTABLE DEFAULT_LIBVIRT_LXC_NOSECLABEL DEFAULT_PRIVATE_KEY_FILE DEFAULT_REMOTE_PORT
        DEFAULT_REMOTE_USER DEFAULT_SELINUX_SPECIAL_FS DEFAULT_SU DEFAULT_TIMEOUT DEFAULT_TRANSPORT HOST_KEY_CHECKING
        INTERPRETER_PYTHON PARAMIKO_.* PERSISTENT_.* SSH_AGENT.* USE_PERSISTENT_CONNECTIONS WIN_ASYNC_STARTUP_TIMEOUT
        PYTHON_MODULE_RLIMIT_NOFILE _ANSIBLE_CONNECTION_PATH""",
    "speed, or time: a run may be killed or cut off at any moment, and the hosts revert by themselves": """
        DEFAULT_FORKS DEFAULT_POLL_INTERVAL TASK_TIMEOUT WORKER_SHUTDOWN_.* DEFAULT_KEEP_REMOTE_FILES""",
    "the plays fix it themselves": "DEFAULT_STRATEGY DEFAULT_STRATEGY_PLUGIN_PATH DEFAULT_PRIVATE_ROLE_VARS",
    "a run that leaves out its opening changes nothing (tests/integration/runs/test_opened.py)": "TAGS_RUN TAGS_SKIP",
    "it reads facts before the first task, and changes nothing": "DEFAULT_GATHERING FACTS_MODULES",
    "facts of an earlier run open nothing: the run's folder and the history count": "CACHE_PLUGIN.*",
    "where code comes from: full names are used, and the digest of the code is in the record and in the plan": """
        ANSIBLE_HOME COLLECTIONS_.* DEFAULT_.*_PLUGIN_PATH DEFAULT_MODULE_PATH DEFAULT_MODULE_UTILS_PATH
        DEFAULT_ROLES_PATH DOC_FRAGMENT_PLUGIN_PATH DEFAULT_LOCAL_TMP""",
    "a vault that cannot be opened ends the run before it begins": "DEFAULT_ASK_VAULT_PASS DEFAULT_VAULT_.* VAULT_.*",
    "which hosts there are, which the record and the plan name": """
        DEFAULT_HOST_LIST HOST_PATTERN_MISMATCH INVENTORY_ANY_UNPARSED_IS_FAILED INVENTORY_ENABLED INVENTORY_EXPORT
        INVENTORY_IGNORE_EXTS INVENTORY_UNPARSED_IS_FAILED TRANSFORM_INVALID_GROUP_CHARS""",
    "handlers only reload systemd or report, and all of them exist": """
        DEFAULT_FORCE_HANDLERS ERROR_ON_MISSING_HANDLER""",
    "the playbooks and roles pass Ansible's strictest checks (make lint)": """
        ALLOW_BROKEN_CONDITIONALS ALLOW_EMBEDDED_TEMPLATES DEFAULT_JINJA2_EXTENSIONS DEFAULT_JINJA2_NATIVE
        DEFAULT_NULL_REPRESENTATION INVALID_TASK_ATTRIBUTE_FAILED MODULE_STRICT_UTF8_RESPONSE STRING_TYPE_FILTERS
        VALIDATE_ACTION_GROUP_METADATA MODULE_IGNORE_EXTS RUN_VARS_PLUGINS PLAYBOOK_VARS_ROOT""",
    "not for ansible-playbook, or not for hosts such as these": """
        DEFAULT_LOAD_CALLBACK_PLUGINS DEFAULT_MODULE_ARGS GALAXY_.* NETCONF_SSH_CONFIG NETWORK_GROUP_MODULES
        OLD_PLUGIN_CACHE_CLEARING PLAYBOOK_DIR RETRY_FILES_.* TASK_DEBUGGER_IGNORE_ERRORS""",
    "for the developers of Ansible": "COVERAGE_.* _.*",
}


def options() -> list[str]:
    """Every setting that an environment variable can set."""
    defined = constants.config.get_configuration_definitions()
    return sorted(name for name, entry in defined.items() if entry.get("env"))


@pytest.mark.parametrize("name", options())
def test_every_setting_is_required_or_harmless(name: str) -> None:
    required = [setting for setting in REQUIRED if setting.name == name]
    reasons = [why for why, names in HARMLESS.items() if any(re.fullmatch(pattern, name) for pattern in names.split())]
    assert len(required) + bool(reasons) == 1


@pytest.mark.parametrize("setting", REQUIRED, ids=lambda setting: setting.name)
def test_a_required_setting_is_one_of_ansible_and_kept_by_default(setting: Any) -> None:
    definition = constants.config.get_configuration_definitions()[setting.name]
    assert setting.variable in {entry["name"] for entry in definition["env"]}
    if setting.name != "CALLBACKS_ENABLED":
        assert setting.is_kept(definition["default"])


def test_every_required_setting_has_a_line_in_the_documents() -> None:
    table = (CHECKOUT / "docs/releasing.md").read_text(encoding="utf-8")
    for setting in REQUIRED:
        assert f"| `{setting.variable}` | {setting.why} |" in table


@pytest.mark.parametrize("setting", REQUIRED, ids=lambda setting: setting.name)
def test_another_value_is_refused_with_what_to_do(setting: Any) -> None:
    values = {other.name: other.value for other in REQUIRED}
    require_settings(values.__getitem__)
    other = [] if setting.is_member else ["x"] if isinstance(setting.value, list) else not setting.value
    with pytest.raises(MobiusError) as refused:
        require_settings({**values, setting.name: other}.__getitem__)
    assert refused.value.outcome == "invalid_input"
    assert setting.why in refused.value.reason and setting.variable in refused.value.do_next
