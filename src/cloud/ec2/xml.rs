//! Reading the replies. Names are looked at without their namespace; what is missing is missing, not empty.

use roxmltree::Node;

/// The first child of that name.
pub(super) fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.is_element() && child.tag_name().name() == name)
}

/// The text below a path of children.
pub(super) fn text<'a>(node: Node<'a, 'a>, path: &[&str]) -> Option<&'a str> {
    let node = path.iter().try_fold(node, |node, name| child(node, name))?;
    node.text().map(str::trim).filter(|text| !text.is_empty())
}

/// The `item`s of the list of that name; none where there is no such list.
pub(super) fn items<'a>(node: Node<'a, 'a>, list: &str) -> Vec<Node<'a, 'a>> {
    let Some(list) = child(node, list) else { return Vec::new() };
    list.children().filter(|child| child.is_element() && child.tag_name().name() == "item").collect()
}
