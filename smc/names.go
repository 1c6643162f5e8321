package smc

// CheckName holds a name that does not come in a request of the API, such as that of a registering source server, to
// the rule for names: 2 to 128 characters, a letter or Chinese character first (CONTRACT: Jobs: parameters).
// The error is an InvalidParameter that names the parameter.
func CheckName(parameter, name string) error {
	if r := rules["name"]; !r.holds(name) {
		return Errorf(CodeInvalidParameter, "%s: %s is not allowed; it must be %s", parameter, quote(name), r.words)
	}
	return nil
}
