// The conversation outlives a reload: it is kept in this tab's session storage, and goes with the tab. Never the key.

const NAME = "flashmoe-conversation";
const NOTHING = { messages: [], question: "" };

/** messages: what was said. question: one that was not answered when the page went away. */
export function kept() {
  try {
    return { ...NOTHING, ...JSON.parse(sessionStorage.getItem(NAME)) };
  } catch {
    return NOTHING; // the browser allows no storage, or somebody else wrote there
  }
}

/** Whether it is kept: a very long conversation, or a browser that keeps nothing, is gone with a reload. */
export function keep(conversation) {
  try {
    sessionStorage.setItem(NAME, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}
